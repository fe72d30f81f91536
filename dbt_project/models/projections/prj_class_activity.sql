{#- Earlier versions made the table without last_event_id. -#}
{{ config(
    unique_key=['user_id', 'class_id'], on_schema_change='append_new_columns'
) }}

with

events as (

    select * from {{ ref('stg_event') }}
    where load_id > {{ watermark() }}

),

parts as (

    select
        user_id,
        class_id,
        1 as event_count,
        occurred_at as first_event_at,
        occurred_at as last_event_at,
        event_id as last_event_id,
        course_id,
        case when course_id is not null then occurred_at end as course_named_at,
        case when course_id is not null then event_id end as course_event_id,
        load_id
    from events

    {% if not starts_over() %}
    union all by name

    -- The state of the classes that have new events, folded with them.
    select * from {{ this }}
    where
        (user_id, class_id) in (
            select
                events.user_id,
                events.class_id
            from events
        )
    {% endif %}

),

folded as (

    select
        user_id,
        class_id,
        cast(sum(event_count) as bigint) as event_count,
        min(first_event_at) as first_event_at,
        max({{ moment('last_event_at', 'last_event_id') }}) as last_event,
        max(
            {{ struct({
                'occurred_at': 'course_named_at',
                'event_id': 'course_event_id',
                'course_id': 'course_id',
            }) }}
        ) filter (where course_id is not null) as naming,
        max(load_id) as load_id
    from parts
    group by user_id, class_id

),

final as (

    select
        user_id,
        class_id,
        event_count,
        first_event_at,
        last_event.occurred_at as last_event_at,
        last_event.event_id as last_event_id,
        naming.course_id,
        naming.occurred_at as course_named_at,
        naming.event_id as course_event_id,
        load_id
    from folded

)

select * from final
