{#- A failing row is a combination of `columns` that no row of `to` has in its columns
    `key` (by default of the same names), with the number of rows that have it. -#}
{% test belongs_to(model, columns, to, key=none) %}

with

children as (

    select
        {{ columns | join(',\n        ') }},
        count(*) as row_count
    from {{ model }}
    group by {{ columns | join(', ') }}

)

select * from children
where
    not exists (
        select 1
        from {{ to }} as parents
        where
            {% for column in columns -%}
            {{ 'and ' if not loop.first }}children.{{ column }} = parents.
            {{- (key or columns)[loop.index0] }}
            {% endfor %}
    )

{% endtest %}
