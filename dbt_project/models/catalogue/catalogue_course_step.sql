with

tracked as (

    select * from {{ ref('catalogue_class') }}
    where is_retired = 0 and (has_video = 1 or has_quiz = 1)

),

final as (

    select
        course_id,
        class_id,
        title,
        row_number() over (
            partition by course_id order by position, class_id
        ) as step
    from tracked

)

select * from final
