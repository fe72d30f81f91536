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

bins as (

    select
        user_id,
        class_id,
        {{ each_number('greatest(last_bin - bins_before, 0)', 'last_bin') }} as bin,
        1 as ping_count
    from placed
    where duration_sec is not null

    {% if not starts_over() %}
    union all

    -- The state of the classes that have new pings, folded with them.
    select
        user_id,
        class_id,
        watched.bin,
        watched.ping_count
    from (
        select
            user_id,
            class_id,
            {{ each_member('watched_bins') }} as watched
        from {{ this }}
        where
            (user_id, class_id) in (
                select
                    pings.user_id,
                    pings.class_id
                from pings
            )
    ) as known
    {% endif %}

),

counted as (

    select
        user_id,
        class_id,
        bin,
        cast(sum(ping_count) as integer) as ping_count
    from bins
    group by user_id, class_id, bin

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
        occurred_at as last_ping_at,
        event_id as last_ping_event_id,
        case when duration_sec is not null then occurred_at end as duration_at,
        case when duration_sec is not null then event_id end as duration_event_id,
        duration_sec,
        load_id
    from pings

    {% if not starts_over() %}
    union all

    select
        user_id,
        class_id,
        last_ping_at,
        last_ping_event_id,
        duration_at,
        duration_event_id,
        duration_sec,
        load_id
    from {{ this }}
    where
        (user_id, class_id) in (
            select
                pings.user_id,
                pings.class_id
            from pings
        )
    {% endif %}

),

folded as (

    select
        user_id,
        class_id,
        max({{ moment('last_ping_at', 'last_ping_event_id') }}) as last_ping,
        max(
            {{ struct({
                'occurred_at': 'duration_at',
                'event_id': 'duration_event_id',
                'duration_sec': 'duration_sec',
            }) }}
        ) filter (where duration_sec is not null) as duration,
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
