with

tracked_classes as (

    select
        catalogue.course_id,
        catalogue.class_id,
        snapshots.valid_from,
        snapshots.valid_to
    from {{ source('raw', 'catalogue') }} as catalogue
    inner join {{ ref('catalogue_snapshot') }} as snapshots
        on catalogue.load_id = snapshots.load_id
    where catalogue.has_video = 1 or catalogue.has_quiz = 1

),

courses as (

    select
        course_id,
        valid_from,
        valid_to,
        list_sort(list(class_id)) as class_ids
    from tracked_classes
    group by course_id, valid_from, valid_to

),

changes as (

    select
        *,
        case
            when
                lag(valid_to) over course_history = valid_from
                and lag(class_ids) over course_history = class_ids
                then 0
            else 1
        end as is_change
    from courses
    window course_history as (partition by course_id order by valid_from)

),

versions as (

    select
        *,
        sum(is_change) over (
            partition by course_id order by valid_from
        ) as course_version
    from changes

),

merged as (

    select
        course_id,
        class_ids,
        min(valid_from) as valid_from,
        max(valid_to) as valid_to
    from versions
    group by course_id, course_version, class_ids

),

final as (

    select
        course_id,
        unnest(class_ids) as class_id,
        len(class_ids) as class_count,
        valid_from,
        valid_to
    from merged

)

select * from final
