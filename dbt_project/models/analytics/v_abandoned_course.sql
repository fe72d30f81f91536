with

final as (

    select
        user_id,
        course_id,
        steps_completed,
        steps_total,
        progress_percent,
        started_at,
        last_event_at
    from {{ ref('v_course_progress') }}
    where status = 'abandoned'

)

select * from final
