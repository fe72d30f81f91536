with

-- A skill is what its tracked classes of today's catalogue teach.
skill_steps as (

    select
        skills.skill_id,
        skills.class_id,
        count(*) over (partition by skills.skill_id) as steps_total
    from {{ ref('stg_class_skill') }} as skills
    inner join {{ ref('catalogue_course_step') }} as steps
        on skills.class_id = steps.class_id

),

final as (

    select
        activity.user_id,
        skill_steps.skill_id,
        count(signals.class_id) as steps_completed,
        max(skill_steps.steps_total) as steps_total,
        count(signals.class_id) / max(skill_steps.steps_total) as mastery_share
    from skill_steps
    inner join {{ ref('prj_class_activity') }} as activity
        on skill_steps.class_id = activity.class_id
    left join {{ ref('prj_class_signal') }} as signals
        on
            activity.user_id = signals.user_id
            and activity.class_id = signals.class_id
            and signals.type = 'STEP_COMPLETED'
    group by activity.user_id, skill_steps.skill_id

)

select * from final
