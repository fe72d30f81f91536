{{ config(unique_key=['user_id', 'class_id']) }}

with

pings as (

    select * from {{ ref('stg_video_ping') }}
    where load_id > {{ place() }}

),

judged as (

    select
        *,
        -- Exact: the two numbers are compared as the decimals that were sent, because
        -- 0.9 * 60.07 is not 54.063 in binary. Far from the edge that is not needed.
        case
            when
                position_sec
                > duration_sec * ({{ var('completion_threshold') }} + 1e-9)
                then true
            when
                position_sec
                < duration_sec * ({{ var('completion_threshold') }} - 1e-9)
                then false
            else coalesce(
                try_cast(cast(position_sec as varchar) as decimal(32, 16))
                >= {{ var('completion_threshold') }}
                * try_cast(cast(duration_sec as varchar) as decimal(32, 16)),
                position_sec >= duration_sec * {{ var('completion_threshold') }}
            )
        end as is_completing
    from pings

),

delta as (

    select
        user_id,
        class_id,
        count(*) as ping_count,
        max(position_sec) as max_position_sec,
        min(occurred_at) as first_ping_at,
        max(occurred_at) as last_ping_at,
        min(case when is_completing then occurred_at end) as completed_at,
        min_by(event_id, {{ moment() }}) filter (where is_completing)
            as completed_event_id,
        max(load_id) as load_id
    from judged
    group by user_id, class_id

),

{% if not starts_over() %}
-- The state of the keys that have new pings. Merged with what is new it is the state of
-- all their pings: the cost is what changed.
touched as (

    select state.*
    from {{ this }} as state
    inner join delta
        on state.user_id = delta.user_id and state.class_id = delta.class_id

),

{% endif %}
parts as (

    select * from delta
    {% if not starts_over() %}
    union all by name
    select * from touched
    {% endif %}

),

final as (

    select
        user_id,
        class_id,
        cast(sum(ping_count) as bigint) as ping_count,
        max(max_position_sec) as max_position_sec,
        min(first_ping_at) as first_ping_at,
        max(last_ping_at) as last_ping_at,
        min(completed_at) as completed_at,
        min_by(
            completed_event_id, {{ moment('completed_at', 'completed_event_id') }}
        ) filter (where completed_at is not null) as completed_event_id,
        max(load_id) as load_id
    from parts
    group by user_id, class_id

)

select * from final
