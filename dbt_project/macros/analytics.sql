{#- A number that an analyst sets, by its name in the seed `threshold`. -#}
{% macro threshold(name) -%}
    (select value from {{ ref('threshold') }} where name = '{{ name }}')
{%- endmacro %}

{#- The mean of ratios from 0 to 1, exact to 12 places: adding decimals gives the same in
    any order, which adding doubles does not. -#}
{% macro mean_ratio(column) -%}
    cast(sum(cast({{ column }} as decimal(18, 12))) as double) / count({{ column }})
{%- endmacro %}

{#- How bad a value is, by the seed `kpi_level`: from its limits on, those included. A
    KPI without limits, or without a value, is ok. -#}
{% macro kpi_level(kpi) -%}
    {%- set sql -%}
    coalesce(
        (
            select
                case
                    when
                        (worse_when = 'high' and {{ kpi }} >= critical)
                        or (worse_when = 'low' and {{ kpi }} <= critical)
                        then 'critical'
                    when
                        (worse_when = 'high' and {{ kpi }} >= warning)
                        or (worse_when = 'low' and {{ kpi }} <= warning)
                        then 'warning'
                end
            from {{ ref('kpi_level') }}
            where kpi = '{{ kpi }}'
        ),
        'ok'
    )
    {%- endset -%}
    {{ sql.split() | join(' ') }}
{%- endmacro %}
