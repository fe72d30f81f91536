{{ config(unique_key=['user_id', 'active_on']) }}

with

events as (

    select
        user_id,
        {{ local_date('occurred_at') }} as active_on,
        occurred_at as first_event_at,
        event_id as first_event_id,
        load_id
    from {{ ref('stg_event') }}
    where load_id > {{ watermark() }}

),

parts as (

    select * from events

    {% if not starts_over() %}
    union all by name

    -- The days that have new events, folded with them.
    select * from {{ this }}
    where
        (user_id, active_on) in (
            select
                events.user_id,
                events.active_on
            from events
        )
    {% endif %}

),

folded as (

    select
        user_id,
        active_on,
        min({{ moment('first_event_at', 'first_event_id') }}) as first_event,
        max(load_id) as load_id
    from parts
    group by user_id, active_on

),

final as (

    select
        user_id,
        active_on,
        first_event.occurred_at as first_event_at,
        first_event.event_id as first_event_id,
        load_id
    from folded

)

select * from final
