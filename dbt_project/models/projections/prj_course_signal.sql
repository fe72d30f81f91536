{{ config(unique_key=['user_id', 'course_id']) }}

with

steps as (

    select * from {{ ref('prj_class_signal') }}
    where type = 'STEP_COMPLETED'

),

touched as (

    select distinct
        steps.user_id,
        courses.course_id
    from steps
    inner join {{ ref('catalogue_course_version') }} as courses
        on steps.class_id = courses.class_id
    where steps.load_id > {{ watermark() }}

),

-- For each version of a course: when the last of its tracked classes was completed.
course_moments as (

    select
        touched.user_id,
        touched.course_id,
        courses.valid_to,
        greatest(courses.valid_from, max(steps.occurred_at)) as occurred_at,
        {{ union_of_arrays('steps.source_event_ids') }} as source_event_ids,
        max(steps.load_id) as load_id
    from touched
    inner join {{ ref('catalogue_course_version') }} as courses
        on touched.course_id = courses.course_id
    inner join steps
        on touched.user_id = steps.user_id and courses.class_id = steps.class_id
    group by
        touched.user_id,
        touched.course_id,
        courses.valid_from,
        courses.valid_to,
        courses.class_count
    having count(*) = courses.class_count

),

ranked as (

    select
        *,
        row_number() over (
            partition by user_id, course_id order by occurred_at, valid_to
        ) as earliest_first
    from course_moments
    where occurred_at < valid_to

),

final as (

    select
        'COURSE_COMPLETED' as type,
        user_id,
        course_id,
        occurred_at,
        source_event_ids,
        load_id
    from ranked
    where earliest_first = 1

)

select * from final
