{#- A failing row is a combination of `columns` that no row of `to` has in its columns
    `key` (by default of the same names), with the number of rows that have it. -#}
{% test belongs_to(model, columns, to, key=none) %}

select
    {% for column in columns -%}
    child.{{ column }},
    {% endfor -%}
    count(*) as row_count
from {{ model }} as child
where
    not exists (
        select 1
        from {{ to }} as parent
        where
            {% for column in columns -%}
            {{ 'and ' if not loop.first }}child.{{ column }} = parent.
            {{- (key or columns)[loop.index0] }}
            {% endfor %}
    )
group by {% for column in columns %}child.{{ column }}{{ ', ' if not loop.last }}{% endfor %}

{% endtest %}
