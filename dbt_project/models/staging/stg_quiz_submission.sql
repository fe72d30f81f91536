with

events as (

    select
        *,
        {{ payload_struct('QUIZ_SUBMIT') }} as fields
    from {{ ref('stg_event') }}
    where event_type = 'QUIZ_SUBMIT'

),

final as (

    select
        event_id,
        user_id,
        class_id,
        {{ payload_columns('QUIZ_SUBMIT') | indent(8) }}
        occurred_at,
        received_at,
        load_id
    from events

)

select * from final
