with

final as (

    select
        reason,
        field,
        count(*) as dead_letter_count,
        min(first_seen) as first_seen,
        max(first_seen) as last_seen
    from {{ ref('stg_dead_letter') }}
    group by reason, field

)

select * from final
