with

steps as (

    select * from {{ ref('catalogue_course_step') }}

),

completions as (

    select
        signals.user_id,
        steps.course_id,
        steps.step
    from {{ ref('prj_class_signal') }} as signals
    inner join steps on signals.class_id = steps.class_id
    where signals.type = 'STEP_COMPLETED'

),

completed as (

    select
        course_id,
        step,
        count(*) as completed_count
    from completions
    group by course_id, step

),

furthest as (

    select
        user_id,
        course_id,
        max(step) as step
    from completions
    group by user_id, course_id

),

stopped as (

    select
        course_id,
        step,
        count(*) as stopped_count
    from furthest
    group by course_id, step

),

started as (

    select
        course_id,
        count(*) as started_count
    from {{ ref('course_activity') }}
    group by course_id

),

-- Who reached a step went at least so far: those whose furthest it is, and all beyond.
reached as (

    select
        steps.course_id,
        steps.class_id,
        steps.step,
        coalesce(completed.completed_count, 0) as completed_count,
        cast(
            coalesce(
                sum(stopped.stopped_count) over (
                    partition by steps.course_id
                    order by steps.step desc
                    rows between unbounded preceding and current row
                ),
                0
            ) as bigint
        ) as reached_count
    from steps
    left join completed
        on steps.course_id = completed.course_id and steps.step = completed.step
    left join stopped
        on steps.course_id = stopped.course_id and steps.step = stopped.step

),

compared as (

    select
        reached.*,
        coalesce(
            lag(reached.reached_count) over (
                partition by reached.course_id order by reached.step
            ),
            started.started_count,
            0
        ) as before_count
    from reached
    left join started on reached.course_id = started.course_id

),

ranked as (

    select
        *,
        before_count - reached_count as lost_count,
        row_number() over (
            partition by course_id order by before_count - reached_count desc, step
        ) as greatest_loss_first
    from compared

),

final as (

    select
        course_id,
        class_id,
        step,
        reached_count,
        completed_count,
        lost_count,
        lost_count / nullif(before_count, 0) as lost_share,
        -- Where nobody was lost, no step is steep.
        case
            when greatest_loss_first = 1 and lost_count > 0 then 1 else 0
        end as is_steepest
    from ranked

)

select * from final
