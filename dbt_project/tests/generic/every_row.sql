{#- A failing row breaks one of the conditions. As in a check constraint, a condition
    that is NULL holds: say `is not null` where it must not be. -#}
{% test every_row(model, conditions) %}

select *
from {{ model }}
where
    {% for condition in conditions -%}
    {{ 'or ' if not loop.first }}not ({{ condition }})
    {% endfor %}

{% endtest %}
