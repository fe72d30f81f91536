{{ config(unique_key=['user_id', 'class_id']) }}

{#- A bin is 10 s of video, since a player pings every 10 s. -#}

with

pings as (

    select
        user_id,
        class_id,
        event_id,
        occurred_at,
        -- Longer than a day is no video: such a ping watches nothing.
        case when duration_sec <= 86400 then duration_sec end as duration_sec,
        position_sec,
        playback_rate,
        load_id
    from {{ ref('stg_video_ping') }}
    where load_id > {{ watermark() }}

),

placed as (

    select
        *,
        -- A position may lie past the end. The least double divided by 10 is 0.
        cast(
            least(
                floor(position_sec / 10), greatest(ceil(duration_sec / 10), 1) - 1
            ) as integer
        ) as last_bin,
        -- Faster playback passes more bins between two pings.
        case
            when playback_rate > 1
                then cast(ceil(least(playback_rate, 16)) as integer) - 1
            else 0
        end as bins_before
    from pings

),

passed as (

    select
        *,
        -- A row for each bin; without a duration it is the first, and not counted.
        {{ each_number('greatest(last_bin - bins_before, 0)', 'last_bin') }} as bin
    from placed

),

-- In one pass, each bin as a number of the array: read twice, the pings of a large
-- history are held in memory.
new_parts as (

    select
        user_id,
        class_id,
        {{ array_of('case when duration_sec is not null then bin end') }} as bins,
        max({{ moment('occurred_at', 'event_id') }}) as last_ping,
        max(
            {{ struct({
                'occurred_at': 'occurred_at',
                'event_id': 'event_id',
                'duration_sec': 'duration_sec',
            }) }}
        ) filter (where duration_sec is not null) as duration,
        max(load_id) as load_id
    from passed
    group by user_id, class_id

),

{% if starts_over() %}
joined as (

    select
        user_id,
        class_id,
        last_ping,
        duration,
        {{ counts_of_members('bins', 'bin', 'ping_count') }} as watched_bins,
        load_id
    from new_parts

),
{% else %}
-- The state of the classes that have new pings, folded with them.
known_parts as (

    select * from {{ this }}
    where
        (user_id, class_id) in (
            select
                new_parts.user_id,
                new_parts.class_id
            from new_parts
        )

),

bins as (

    select
        user_id,
        class_id,
        {{ each_member(counts_of_members('bins', 'bin', 'ping_count')) }} as watched
    from new_parts
    union all
    select
        user_id,
        class_id,
        {{ each_member('watched_bins') }} as watched
    from known_parts

),

counted as (

    select
        user_id,
        class_id,
        watched.bin,
        cast(sum(watched.ping_count) as integer) as ping_count
    from bins
    group by user_id, class_id, watched.bin

),

watched as (

    select
        user_id,
        class_id,
        {{ array_in_order(struct({'bin': 'bin', 'ping_count': 'ping_count'})) }}
            as watched_bins
    from counted
    group by user_id, class_id

),

latest as (

    select
        user_id,
        class_id,
        last_ping,
        duration,
        load_id
    from new_parts
    union all
    select
        user_id,
        class_id,
        {{ moment('last_ping_at', 'last_ping_event_id') }} as last_ping,
        case
            when duration_sec is not null
                then
                    {{ struct({
                        'occurred_at': 'duration_at',
                        'event_id': 'duration_event_id',
                        'duration_sec': 'duration_sec',
                    }) }}
        end as duration,
        load_id
    from known_parts

),

folded as (

    select
        user_id,
        class_id,
        max(last_ping) as last_ping,
        max(duration) as duration,
        max(load_id) as load_id
    from latest
    group by user_id, class_id

),

joined as (

    select
        folded.user_id,
        folded.class_id,
        folded.last_ping,
        folded.duration,
        watched.watched_bins,
        folded.load_id
    from folded
    left join watched
        on folded.user_id = watched.user_id and folded.class_id = watched.class_id

),
{% endif %}

measured as (

    select
        *,
        greatest(ceil(duration.duration_sec / 10), 1) as bin_count
    from joined

),

-- A duration that became shorter leaves bins past the end: they don't count.
inside as (

    select
        *,
        {{ count_members('watched_bins', 'each.bin < bin_count') }} as watched_count,
        {{ count_members('watched_bins', 'each.bin = bin_count - 1') }}
            as watched_end_count
    from measured

),

final as (

    select
        user_id,
        class_id,
        watched_bins,
        last_ping.occurred_at as last_ping_at,
        last_ping.event_id as last_ping_event_id,
        duration.duration_sec,
        duration.occurred_at as duration_at,
        duration.event_id as duration_event_id,
        watched_count / bin_count as coverage,
        -- All bins are 10 s but the one that the video ends in.
        cast(
            (watched_count - watched_end_count) * 10
            + floor(
                watched_end_count * (duration.duration_sec - (bin_count - 1) * 10)
            ) as integer
        ) as watched_sec,
        load_id
    from inside

)

select * from final
