{{ config(unique_key=['user_id', 'class_id']) }}

with

pings as (

    select
        * exclude (line),
        case when {{ is_at_completion_edge() }} then line end as line_at_edge
    from {{ ref('stg_video_ping') }}
    where load_id > {{ watermark() }}

),

judged as (

    select
        *,
        {{ is_completing() | indent(8) }} as is_completing
    from pings

),

parts as (

    select
        user_id,
        class_id,
        1 as ping_count,
        position_sec as max_position_sec,
        occurred_at as first_ping_at,
        occurred_at as last_ping_at,
        case when is_completing then occurred_at end as completed_at,
        case when is_completing then event_id end as completed_event_id,
        load_id
    from judged

    {% if not starts_over() %}
    union all by name

    -- The state of the classes that have new pings. Folded with what is new it is the
    -- state of all their pings: the cost is what changed.
    select * from {{ this }}
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
        cast(sum(ping_count) as bigint) as ping_count,
        max(max_position_sec) as max_position_sec,
        min(first_ping_at) as first_ping_at,
        max(last_ping_at) as last_ping_at,
        min(
            {{ moment('completed_at', 'completed_event_id') }}
        ) filter (where completed_at is not null) as completion,
        max(load_id) as load_id
    from parts
    group by user_id, class_id

),

final as (

    select
        user_id,
        class_id,
        ping_count,
        max_position_sec,
        first_ping_at,
        last_ping_at,
        completion.occurred_at as completed_at,
        completion.event_id as completed_event_id,
        load_id
    from folded

)

select * from final
