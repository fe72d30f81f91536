with

xp as (

    -- A type that the seed leaves out, or gives no XP, is worth 0.
    select
        sum(case when type = 'VIDEO_COMPLETED' then xp else 0 end)
            as video_completed_xp,
        sum(case when type = 'QUIZ_PASSED' then xp else 0 end)
            as quiz_passed_xp,
        sum(case when type = 'STEP_COMPLETED' then xp else 0 end)
            as step_completed_xp,
        sum(case when type = 'COURSE_COMPLETED' then xp else 0 end)
            as course_completed_xp
    from {{ ref('signal_type') }}

),

totals as (

    select
        totals.*,
        cast(
            totals.video_completed_count * xp.video_completed_xp
            + totals.quiz_passed_count * xp.quiz_passed_xp
            + totals.step_completed_count * xp.step_completed_xp
            + totals.course_completed_count * xp.course_completed_xp
            as bigint
        ) as total_xp
    from {{ ref('prj_user_signal_total') }} as totals
    cross join xp

),

final as (

    select
        rank() over (order by total_xp desc) as rank,
        user_id,
        total_xp,
        video_completed_count,
        quiz_passed_count,
        step_completed_count,
        course_completed_count
    from totals

)

select * from final
