with

final as (

    select
        load_id,
        kind,
        file,
        received_at,
        lines_read,
        accepted,
        duplicate,
        conflict,
        rejected,
        erased,
        -- The conservation law: 0 in every row.
        lines_read
        - accepted
        - duplicate
        - conflict
        - rejected
        - erased as lines_unaccounted,
        seconds
    from {{ ref('stg_load') }}

)

select * from final
