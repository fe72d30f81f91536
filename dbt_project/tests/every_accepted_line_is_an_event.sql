{{ config(
    tags=['full_scan'],
    meta={'dagster': {'ref': {'name': 'v_load_outcome'}}},
) }}

-- The law of conservation against what is there. A failing row is a load that has
-- another number of events than lines it says it accepted (an event was lost, or landed
-- outside of a load), or, for a file, another number of dead letters than lines it says
-- it did not accept. Those that were retried away or discarded on purpose are on
-- record, and counted. `ingest/store/conservation.py` says the same of single loads.
with

events as (

    select
        load_id,
        count(*) as event_count
    from {{ source('raw', 'lms_event') }}
    group by load_id

),

letter_places as (

    select load_id from {{ source('raw', 'dead_letter') }}
    union all
    select load_id from {{ source('raw', 'discarded_letter') }}
    union all
    select load_id from {{ source('raw', 'retried_letter') }}
    where outcome in ('accepted', 'duplicate', 'erased')

),

letters as (

    select
        load_id,
        count(*) as letter_count
    from letter_places
    group by load_id

),

load_ids as (

    select load_id from {{ source('raw', 'load') }}
    union
    select load_id from events
    union
    select load_id from letters

),

compared as (

    select
        load_ids.load_id,
        coalesce(loads.accepted, 0) as accepted,
        coalesce(events.event_count, 0) as event_count,
        -- What a retry did not accept stays the dead letter of the load it came with.
        case
            when loads.kind = 'retry' then 0
            else coalesce(loads.conflict + loads.rejected, 0)
        end as not_accepted,
        coalesce(letters.letter_count, 0) as letter_count
    from load_ids
    left join {{ source('raw', 'load') }} as loads on load_ids.load_id = loads.load_id
    left join events on load_ids.load_id = events.load_id
    left join letters on load_ids.load_id = letters.load_id

)

select * from compared
where accepted != event_count or letter_count != not_accepted
