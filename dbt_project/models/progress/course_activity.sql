with

activity as (

    select
        activity.*,
        classes.course_id as todays_course_id
    from {{ ref('prj_class_activity') }} as activity
    inner join {{ ref('catalogue_class') }} as classes
        on activity.class_id = classes.class_id
    where classes.is_retired = 0

),

folded as (

    select
        user_id,
        todays_course_id as course_id,
        min(first_event_at) as started_at,
        max({{ moment('last_event_at', 'last_event_id') }}) as last_event
    from activity
    group by user_id, todays_course_id

),

final as (

    select
        user_id,
        course_id,
        started_at,
        last_event.occurred_at as last_event_at,
        last_event.event_id as last_event_id
    from folded

)

select * from final
