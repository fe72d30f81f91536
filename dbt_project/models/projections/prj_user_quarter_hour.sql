{{ config(unique_key=['user_id', 'event_type', 'quarter_hour']) }}

with

events as (

    select * from {{ ref('stg_event') }}
    where load_id > {{ watermark() }}

),

parts as (

    select
        user_id,
        event_type,
        quarter_hour,
        1 as event_count,
        occurred_at as last_event_at,
        load_id
    from events

    {% if not starts_over() %}
    union all by name

    -- The counts of the quarter hours that have new events, folded with them.
    select * from {{ this }}
    where
        (user_id, event_type, quarter_hour) in (
            select
                events.user_id,
                events.event_type,
                events.quarter_hour
            from events
        )
    {% endif %}

),

final as (

    select
        user_id,
        event_type,
        quarter_hour,
        cast(sum(event_count) as bigint) as event_count,
        max(last_event_at) as last_event_at,
        max(load_id) as load_id
    from parts
    group by user_id, event_type, quarter_hour

)

select * from final
