with

final as (

    select
        load_id,
        file,
        line_number,
        reason,
        field,
        detail,
        event_id,
        first_seen,
        attempts
    from {{ source('raw', 'dead_letter') }}

)

select * from final
