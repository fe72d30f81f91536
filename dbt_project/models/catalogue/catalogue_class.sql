with

versions as (

    select * from {{ ref('catalogue_class_version') }}
    where valid_from <= {{ now() }}

),

ranked as (

    select
        *,
        row_number() over (
            partition by class_id order by valid_from desc
        ) as newest_first
    from versions

),

final as (

    select
        class_id,
        course_id,
        title,
        position,
        has_video,
        has_quiz,
        case when valid_to <= {{ now() }} then 1 else 0 end as is_retired
    from ranked
    where newest_first = 1

)

select * from final
