{#- A failing row is a version that is empty, or that does not end before the next
    version of the same key begins: at each moment one version holds, or none. -#}
{% test no_overlap(model, key) %}

with

versions as (

    select
        *,
        lead(valid_from) over (
            partition by {{ key | join(', ') }} order by valid_from
        ) as next_valid_from
    from {{ model }}

)

select * from versions
where
    {{ key | join(' is null or ') }} is null
    or valid_from is null
    or valid_to is null
    or valid_from >= valid_to
    or next_valid_from < valid_to

{% endtest %}
