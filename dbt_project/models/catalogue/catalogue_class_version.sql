with

classes as (

    select
        catalogue.class_id,
        catalogue.course_id,
        catalogue.title,
        catalogue.position,
        catalogue.has_video,
        catalogue.has_quiz,
        snapshots.valid_from,
        snapshots.valid_to
    from {{ source('raw', 'catalogue') }} as catalogue
    inner join {{ ref('catalogue_snapshot') }} as snapshots
        on catalogue.load_id = snapshots.load_id

),

changes as (

    -- 1 where a class is new, returns, or differs from the snapshot before.
    select
        *,
        case
            when
                lag(valid_to) over class_history = valid_from
                and lag(course_id) over class_history = course_id
                and lag(title) over class_history = title
                and lag(position) over class_history = position
                and lag(has_video) over class_history = has_video
                and lag(has_quiz) over class_history = has_quiz
                then 0
            else 1
        end as is_change
    from classes
    window class_history as (partition by class_id order by valid_from)

),

versions as (

    select
        *,
        sum(is_change) over (
            partition by class_id order by valid_from
        ) as class_version
    from changes

),

final as (

    select
        class_id,
        course_id,
        title,
        position,
        has_video,
        has_quiz,
        min(valid_from) as valid_from,
        max(valid_to) as valid_to
    from versions
    group by
        class_id, class_version, course_id, title, position, has_video, has_quiz

)

select * from final
