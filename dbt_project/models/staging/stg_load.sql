with

loads as (

    select * from {{ source('raw', 'load') }}
    where kind in ('events', 'retry')

),

final as (

    select
        load_id,
        kind,
        file,
        lines_read,
        accepted,
        duplicate,
        conflict,
        rejected,
        erased,
        received_at,
        seconds
    from loads

)

select * from final
