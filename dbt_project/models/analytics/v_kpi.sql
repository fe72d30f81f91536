with

learners as (

    select
        user_id,
        max(last_event_at) as last_event_at
    from {{ ref('prj_class_activity') }}
    group by user_id

),

-- Events after now, of a clock that runs ahead, are as good as of now.
activity as (

    select
        count(*) as learner_count,
        count(case when last_event_at > {{ days_before(now(), 1) }} then 1 end)
            as active_24h_count,
        count(case when last_event_at > {{ days_before(now(), 7) }} then 1 end)
            as active_7d_count,
        count(case when last_event_at > {{ days_before(now(), 30) }} then 1 end)
            as active_30d_count
    from learners

),

courses as (

    select
        count(*) as started_count,
        count(completed_at) as completed_count,
        count(case when status = 'abandoned' then 1 end) as abandoned_count
    from {{ ref('v_course_progress') }}

),

videos as (

    select
        count(*) as started_count,
        count(
            case
                when
                    video_completed = 0 and coverage < {{ threshold('half_watched') }}
                    then 1
            end
        ) as dropped_count
    from {{ ref('v_video_engagement') }}

),

quizzes as (

    select {{ mean_ratio('best_score_ratio') }} as mean_score_ratio
    from {{ ref('prj_quiz_result') }}

),

streaks as (

    select avg(current_days) as mean_days from {{ ref('v_learner_streak') }}

),

signals as (

    select
        (select count(*) from {{ ref('prj_class_signal') }})
        + (select count(*) from {{ ref('prj_course_signal') }}) as signal_count,
        (select count(*) from {{ ref('v_orphan_signal') }}) as orphan_count

),

stale as (

    select count(*) as stale_count from {{ ref('v_stale_user') }}

),

measured as (

    select
        activity.*,
        courses.completed_count / nullif(courses.started_count, 0) as completion_rate,
        activity.active_7d_count / nullif(activity.learner_count, 0) as engagement_rate,
        videos.dropped_count / nullif(videos.started_count, 0) as drop_off_rate,
        quizzes.mean_score_ratio as mean_quiz_score_ratio,
        streaks.mean_days as mean_current_streak,
        signals.orphan_count / nullif(signals.signal_count, 0) as orphan_share,
        stale.stale_count / nullif(activity.learner_count, 0) as stale_share,
        courses.abandoned_count / nullif(courses.started_count, 0) as abandoned_share
    from activity
    cross join courses
    cross join videos
    cross join quizzes
    cross join streaks
    cross join signals
    cross join stale

),

final as (

    select
        learner_count,
        active_24h_count,
        active_7d_count,
        active_30d_count,
        completion_rate,
        {{ kpi_level('completion_rate') }} as completion_rate_level,
        engagement_rate,
        {{ kpi_level('engagement_rate') }} as engagement_rate_level,
        drop_off_rate,
        {{ kpi_level('drop_off_rate') }} as drop_off_rate_level,
        mean_quiz_score_ratio,
        {{ kpi_level('mean_quiz_score_ratio') }} as mean_quiz_score_ratio_level,
        mean_current_streak,
        {{ kpi_level('mean_current_streak') }} as mean_current_streak_level,
        orphan_share,
        {{ kpi_level('orphan_share') }} as orphan_share_level,
        stale_share,
        {{ kpi_level('stale_share') }} as stale_share_level,
        abandoned_share,
        {{ kpi_level('abandoned_share') }} as abandoned_share_level
    from measured

)

select * from final
