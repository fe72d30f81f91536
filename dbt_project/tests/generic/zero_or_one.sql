{#- A failing row has another value than 0 or 1, NULL included, in a column. -#}
{% test zero_or_one(model, columns) %}

select {{ columns | join(', ') }}
from {{ model }}
where
    {% for column in columns -%}
    {{ 'or ' if not loop.first }}coalesce({{ column }} not in (0, 1), true)
    {% endfor %}

{% endtest %}
