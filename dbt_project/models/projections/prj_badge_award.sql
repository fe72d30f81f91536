{#- All of a learner's awards are replaced together, and all carry the newest load of
    the learner: every event makes or touches an active day. -#}
{{ config(unique_key='user_id') }}

with

touched as (

    select
        user_id,
        max(load_id) as load_id
    from {{ ref('prj_active_day') }}
    {% if not starts_over() %}
    where
        user_id in (
            select active_days.user_id
            from {{ ref('prj_active_day') }} as active_days
            where active_days.load_id > {{ watermark() }}
        )
    {% endif %}
    group by user_id

),

submissions as (

    select
        attempts.user_id,
        {{ each_member('attempts.submissions') }} as submission
    from {{ ref('prj_quiz_attempt') }} as attempts
    inner join touched on attempts.user_id = touched.user_id

),

-- What is counted, and by which events: the n-th of a kind is what earns a badge.
deeds as (

    select
        case signals.type
            when 'VIDEO_COMPLETED' then 'video_count'
            when 'QUIZ_PASSED' then 'quiz_passed'
        end as kind,
        signals.user_id,
        signals.occurred_at,
        signals.source_event_ids
    from {{ ref('prj_class_signal') }} as signals
    inner join touched on signals.user_id = touched.user_id
    where signals.type in ('VIDEO_COMPLETED', 'QUIZ_PASSED')

    union all

    select
        'course_complete' as kind,
        signals.user_id,
        signals.occurred_at,
        signals.source_event_ids
    from {{ ref('prj_course_signal') }} as signals
    inner join touched on signals.user_id = touched.user_id

    union all

    select
        'quiz_perfect' as kind,
        user_id,
        submission.occurred_at,
        {{ sorted_array(['submission.event_id']) }} as source_event_ids
    from submissions
    where submission.is_perfect

),

numbered as (

    select
        *,
        row_number() over (
            partition by user_id, kind order by occurred_at, source_event_ids
        ) as deed_number
    from deeds

),

-- The first day that makes so many in a row is a day of the first run so long.
long_runs as (

    select
        runs.user_id,
        badges.badge,
        min(runs.started_on) + cast(badges.threshold as integer) - 1 as awarded_on
    from {{ ref('prj_streak') }} as runs
    inner join touched on runs.user_id = touched.user_id
    inner join {{ ref('badge') }} as badges on runs.days >= badges.threshold
    where badges.kind = 'streak_days'
    group by runs.user_id, badges.badge, badges.threshold

),

awards as (

    select
        numbered.user_id,
        badges.badge,
        numbered.occurred_at as awarded_at,
        numbered.source_event_ids
    from numbered
    inner join {{ ref('badge') }} as badges
        on numbered.kind = badges.kind and numbered.deed_number = badges.threshold

    union all

    select
        long_runs.user_id,
        long_runs.badge,
        active_days.first_event_at as awarded_at,
        {{ sorted_array(['active_days.first_event_id']) }} as source_event_ids
    from long_runs
    inner join {{ ref('prj_active_day') }} as active_days
        on
            long_runs.user_id = active_days.user_id
            and long_runs.awarded_on = active_days.active_on

),

final as (

    select
        awards.user_id,
        awards.badge,
        awards.awarded_at,
        awards.source_event_ids,
        touched.load_id
    from awards
    inner join touched on awards.user_id = touched.user_id

)

select * from final
