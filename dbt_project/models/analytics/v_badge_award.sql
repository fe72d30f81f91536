with

final as (

    select
        awards.user_id,
        awards.badge,
        awards.awarded_at,
        badges.points,
        awards.source_event_ids
    from {{ ref('prj_badge_award') }} as awards
    inner join {{ ref('badge') }} as badges on awards.badge = badges.badge

)

select * from final
