{#- A failing row is a key that stands in several rows or has a NULL in it, or one of a
    row that breaks a condition, which `broken` names. As in a check constraint, a
    condition that is NULL holds: say `is not null` where it must not be. One pass over
    the rows, and one test instead of two. -#}
{% test key_and_conditions(model, columns, conditions) %}

select
    {{ columns | join(', ') }},
    count(*) as row_count,
    max(
        case
            {% for condition in conditions -%}
            when not ({{ condition }}) then '{{ condition | replace("'", "''") }}'
            {% endfor -%}
        end
    ) as broken
from {{ model }}
group by {{ columns | join(', ') }}
having count(*) > 1 or broken is not null or {{ columns | join(' is null or ') }} is null

{% endtest %}
