{{ config(unique_key=['user_id', 'class_id']) }}

with

events as (

    select * from {{ ref('stg_event') }}
    where load_id > {{ place() }}

),

delta as (

    select
        user_id,
        class_id,
        count(*) as event_count,
        min(occurred_at) as first_event_at,
        max(occurred_at) as last_event_at,
        max_by(course_id, {{ moment() }}) filter (where course_id is not null)
            as course_id,
        max(case when course_id is not null then occurred_at end) as course_named_at,
        max_by(event_id, {{ moment() }}) filter (where course_id is not null)
            as course_event_id,
        max(load_id) as load_id
    from events
    group by user_id, class_id

),

{% if not starts_over() %}
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
        cast(sum(event_count) as bigint) as event_count,
        min(first_event_at) as first_event_at,
        max(last_event_at) as last_event_at,
        max_by(
            course_id, {{ moment('course_named_at', 'course_event_id') }}
        ) filter (where course_id is not null) as course_id,
        max(course_named_at) as course_named_at,
        max_by(
            course_event_id, {{ moment('course_named_at', 'course_event_id') }}
        ) filter (where course_id is not null) as course_event_id,
        max(load_id) as load_id
    from parts
    group by user_id, class_id

)

select * from final
