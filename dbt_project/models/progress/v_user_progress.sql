with

activity as (

    select * from {{ ref('prj_class_activity') }}

),

final as (

    select
        activity.user_id,
        activity.class_id,
        coalesce(classes.course_id, activity.course_id) as course_id,
        coalesce({{ whole('videos.max_position_sec') }}, 0) as video_max_position_sec,
        case when videos.completed_at is null then 0 else 1 end as video_completed,
        case when quizzes.passed_at is null then 0 else 1 end as quiz_passed,
        {{ whole('quizzes.best_score') }} as quiz_score
    from activity
    left join {{ ref('prj_video_progress') }} as videos
        on activity.user_id = videos.user_id and activity.class_id = videos.class_id
    left join {{ ref('prj_quiz_result') }} as quizzes
        on activity.user_id = quizzes.user_id and activity.class_id = quizzes.class_id
    left join {{ ref('catalogue_class') }} as classes
        on activity.class_id = classes.class_id

)

select * from final
