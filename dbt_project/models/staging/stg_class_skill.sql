with

-- The newest file that was landed by now. As of catalogues, the first holds from the
-- beginning.
in_force as (

    select
        coalesce(
            max(case when received_at <= {{ now() }} then load_id end), min(load_id)
        ) as load_id
    from {{ source('raw', 'load') }}
    where kind = 'skills'

),

final as (

    select
        skills.class_id,
        skills.skill_id
    from {{ source('raw', 'class_skill') }} as skills
    inner join in_force on skills.load_id = in_force.load_id

)

select * from final
