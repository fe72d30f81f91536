with

final as (

    select
        user_id,
        video_completed_count,
        quiz_passed_count,
        step_completed_count,
        course_completed_count,
        last_signal_at
    from {{ ref('prj_user_signal_total') }}

)

select * from final
