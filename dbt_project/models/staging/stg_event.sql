with

events as (

    select * from {{ source('raw', 'lms_event') }}

),

final as (

    select
        event_id,
        type as event_type,
        schema_version,
        user_id,
        class_id,
        -- A blank course id names no course.
        case when not {{ is_blank('course_id') }} then course_id end as course_id,
        occurred_at,
        -- Every time zone since 2000 is a whole number of quarter hours from UTC:
        -- counts by quarter hour can be cut into the days of any of them.
        time_bucket(interval 15 minute, occurred_at) as quarter_hour,
        payload,
        received_at,
        load_id,
        line
    from events

)

select * from final
