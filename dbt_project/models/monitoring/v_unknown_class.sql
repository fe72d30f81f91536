with

activity as (

    select * from {{ ref('prj_class_activity') }}

),

final as (

    select
        activity.class_id,
        cast(sum(activity.event_count) as bigint) as event_count,
        count(*) as user_count,
        min(activity.first_event_at) as first_event_at,
        max(activity.last_event_at) as last_event_at
    from activity
    left join {{ ref('catalogue_class') }} as classes
        on activity.class_id = classes.class_id
    where classes.class_id is null
    group by activity.class_id

)

select * from final
