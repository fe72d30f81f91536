with

-- The newest file that was landed by now: it replaces the one before.
in_force as (

    select max(load_id) as load_id
    from {{ source('raw', 'load') }}
    where kind = 'skills' and received_at <= {{ now() }}

),

final as (

    select
        skills.class_id,
        skills.skill_id
    from {{ source('raw', 'class_skill') }} as skills
    inner join in_force on skills.load_id = in_force.load_id

)

select * from final
