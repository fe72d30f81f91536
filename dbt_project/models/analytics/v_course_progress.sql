with

steps as (

    select
        steps.course_id,
        signals.user_id,
        count(*) as steps_completed
    from {{ ref('catalogue_course_step') }} as steps
    inner join {{ ref('prj_class_signal') }} as signals
        on steps.class_id = signals.class_id
    where signals.type = 'STEP_COMPLETED'
    group by steps.course_id, signals.user_id

),

courses as (

    select
        course_id,
        count(*) as steps_total
    from {{ ref('catalogue_course_step') }}
    group by course_id

),

levels as (

    select
        level,
        min_percent,
        lead(min_percent) over (order by min_percent) as next_percent
    from {{ ref('mastery_level') }}

),

progress as (

    select
        activity.user_id,
        activity.course_id,
        coalesce(steps.steps_completed, 0) as steps_completed,
        coalesce(courses.steps_total, 0) as steps_total,
        activity.started_at,
        activity.last_event_at,
        completed.occurred_at as completed_at
    from {{ ref('course_activity') }} as activity
    left join courses on activity.course_id = courses.course_id
    left join steps
        on
            activity.user_id = steps.user_id
            and activity.course_id = steps.course_id
    left join {{ ref('prj_course_signal') }} as completed
        on
            activity.user_id = completed.user_id
            and activity.course_id = completed.course_id

),

measured as (

    select
        *,
        -- In whole numbers: a half is rounded up, whatever doubles make of it.
        case
            when steps_total > 0
                then
                    (steps_completed * 2000 + steps_total)
                    // (steps_total * 2)
                    / 10.0
        end as progress_percent,
        case
            when steps_total > 0 then steps_completed * 100.0 / steps_total else 0
        end as exact_percent
    from progress

),

final as (

    select
        measured.user_id,
        measured.course_id,
        measured.steps_completed,
        measured.steps_total,
        cast(measured.progress_percent as double) as progress_percent,
        levels.level as mastery_level,
        measured.started_at,
        measured.last_event_at,
        measured.completed_at,
        case
            when measured.completed_at is not null then 'completed'
            when
                measured.last_event_at
                <= {{ days_before(now(), threshold('abandoned_after_days')) }}
                then 'abandoned'
            else 'in_progress'
        end as status
    from measured
    left join levels
        on
            measured.exact_percent >= levels.min_percent
            and measured.exact_percent
            < coalesce(levels.next_percent, cast('infinity' as double))

)

select * from final
