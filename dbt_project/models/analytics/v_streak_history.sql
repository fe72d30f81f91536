with

final as (

    select
        user_id,
        started_on,
        ended_on,
        days
    from {{ ref('prj_streak') }}

)

select * from final
