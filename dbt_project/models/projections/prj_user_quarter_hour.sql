{{ config(unique_key=['user_id', 'event_type', 'quarter_hour']) }}

with

events as (

    select * from {{ ref('stg_event') }}
    where load_id > {{ place() }}

),

delta as (

    select
        user_id,
        event_type,
        quarter_hour,
        count(*) as event_count,
        max(occurred_at) as last_event_at,
        max(load_id) as load_id
    from events
    group by user_id, event_type, quarter_hour

),

{% if not starts_over() %}
touched as (

    select state.*
    from {{ this }} as state
    inner join delta
        on
            state.user_id = delta.user_id
            and state.event_type = delta.event_type
            and state.quarter_hour = delta.quarter_hour

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
        event_type,
        quarter_hour,
        cast(sum(event_count) as bigint) as event_count,
        max(last_event_at) as last_event_at,
        max(load_id) as load_id
    from parts
    group by user_id, event_type, quarter_hour

)

select * from final
