"""The law of conservation: no line is lost and none is invented.

What a load says it read, it accepted, knew already, left as a dead letter, or counts
as of an erased learner. An accepted line is an event. A dead letter is there until it
is retried away or discarded, and each of those is on record. An erasure moves what it
deletes from the other counts to `erased`. So what is there can be counted against what
was said, exactly.
"""

from collections.abc import Collection
from dataclasses import dataclass

import duckdb


@dataclass(frozen=True)
class BrokenLoad:
    """A load for which the law does not hold, and what does not add up."""

    load_id: int
    problem: str


@dataclass(frozen=True)
class Totals:
    """The lines of all files, and where they are now."""

    lines_read: int
    events: int
    duplicates: int
    dead_letters: int
    discarded: int
    erased: int

    @property
    def unaccounted(self) -> int:
        """Lines that are nowhere; below 0, what is there and was never read."""
        return self.lines_read - (
            self.events
            + self.duplicates
            + self.dead_letters
            + self.discarded
            + self.erased
        )


def broken_loads(
    connection: duckdb.DuckDBPyConnection, load_ids: Collection[int] | None = None
) -> list[BrokenLoad]:
    """The loads, all or of `load_ids`, for which the law does not hold, in order."""
    if load_ids is not None and not load_ids:
        return []
    rows = connection.execute(
        """
        with

        events as (

            select load_id, count(*) as event_count
            from raw.lms_event
            where load_id >= $oldest
            group by load_id

        ),

        letters as (

            select
                load_id,
                count(*) filter (place = 'dead') as dead,
                count(*) filter (place = 'discarded') as discarded,
                count(*) filter (place = 'retried away') as retried_away
            from (
                select load_id, 'dead' as place from raw.dead_letter
                union all
                select load_id, 'discarded' from raw.discarded_letter
                union all
                select load_id, 'retried away' from raw.retried_letter
                where outcome in ('accepted', 'duplicate', 'erased')
            )
            where load_id >= $oldest
            group by load_id

        ),

        retried as (

            select
                retry_load_id as load_id,
                count(*) filter (outcome = 'accepted') as accepted,
                count(*) filter (outcome = 'duplicate') as duplicate,
                count(*) filter (outcome = 'conflict') as conflict,
                count(*) filter (outcome = 'rejected') as rejected,
                count(*) filter (outcome = 'erased') as erased
            from raw.retried_letter
            where retry_load_id >= $oldest
            group by retry_load_id

        ),

        load_ids as (

            select load_id from raw.load
            union
            select load_id from events
            union
            select load_id from letters
            union
            select unnest(range(1, (select max(load_id) from raw.load)))

        ),

        counted as (

            select
                load_ids.load_id,
                load.* exclude (load_id),
                load.accepted
                + load.duplicate
                + load.conflict
                + load.rejected
                + load.erased as accounted_for,
                coalesce(event_count, 0) as event_count,
                coalesce(dead, 0) as dead,
                coalesce(discarded, 0) as discarded,
                coalesce(retried_away, 0) as retried_away,
                coalesce(retried.accepted, 0) as retried_accepted,
                coalesce(retried.duplicate, 0) as retried_duplicate,
                coalesce(retried.conflict, 0) as retried_conflict,
                coalesce(retried.rejected, 0) as retried_rejected,
                coalesce(retried.erased, 0) as retried_erased
            from load_ids
            left join raw.load as load on load_ids.load_id = load.load_id
            left join events on load_ids.load_id = events.load_id
            left join letters on load_ids.load_id = letters.load_id
            left join retried on load_ids.load_id = retried.load_id
            where
                load_ids.load_id >= $oldest
                and ($load_ids is null or list_contains($load_ids, load_ids.load_id))

        )

        select
            load_id,
            case
                when kind is null
                    then format(
                        'raw.load does not have it; {} events and {} dead letters do',
                        event_count,
                        dead + discarded + retried_away
                    )
                when lines_read != accounted_for
                    then format(
                        '{} lines read, {} of them accounted for',
                        lines_read,
                        accounted_for
                    )
                when accepted != event_count
                    then format(
                        '{} lines accepted, {} events of it are there',
                        accepted,
                        event_count
                    )
                when kind = 'retry'
                    then case
                        when
                            row(accepted, duplicate, conflict, rejected, erased) != row(
                                retried_accepted,
                                retried_duplicate,
                                retried_conflict,
                                retried_rejected,
                                retried_erased
                            )
                            then format(
                                '{} lines retried, raw.retried_letter has other counts',
                                lines_read
                            )
                    end
                when conflict + rejected != dead + discarded + retried_away
                    then format(
                        '{} lines not accepted; {} dead letters of it are there, {} '
                        'discarded ones, {} retried away',
                        conflict + rejected,
                        dead,
                        discarded,
                        retried_away
                    )
            end as problem
        from counted
        where problem is not null
        order by load_id
        """,
        {
            "load_ids": None if load_ids is None else list(load_ids),
            "oldest": min(load_ids) if load_ids else 0,
        },
    ).fetchall()
    return [BrokenLoad(*row) for row in rows]


def totals(connection: duckdb.DuckDBPyConnection) -> Totals:
    """Where all lines are. A line that is retried is not read again: it counts once."""
    [row] = connection.execute(
        """
        select
            coalesce(sum(lines_read) filter (kind = 'events'), 0)::bigint,
            (select count(*) from raw.lms_event),
            coalesce(sum(duplicate), 0)::bigint,
            (select count(*) from raw.dead_letter),
            (select count(*) from raw.discarded_letter),
            coalesce(sum(erased), 0)::bigint
        from raw.load
        """
    ).fetchall()
    return Totals(*row)
