{#- Whether a ping completes its video: its position is at or past the variable
    `completion_threshold` of its own duration, as the decimals that were sent, before any
    rounding. 0.9 * 60.07 is not 54.063 in binary, and a double keeps 17 digits of
    54.06302069999999999999999. Away from the edge doubles say the same, and cost less. -#}

{% macro is_at_completion_edge() -%}
    position_sec <= duration_sec * ({{ var('completion_threshold') }} + 1e-9)
    and position_sec >= duration_sec * ({{ var('completion_threshold') }} - 1e-9)
{%- endmacro %}

{#- `line_at_edge` is the line that the ping came in, NULL away from the edge. -#}
{% macro is_completing() -%}
    {%- set threshold = var('completion_threshold') -%}
    case
        when {{ is_at_completion_edge() }}
            then coalesce(
                -- NULL where the product has more digits than a decimal holds.
                try(
                    {{ sent_decimal('VIDEO_PING', 'position_sec', 'line_at_edge') }}
                    >= {{ threshold }}
                    * {{ sent_decimal('VIDEO_PING', 'duration_sec', 'line_at_edge') }}
                ),
                -- As the doubles print, where more digits were sent than it holds.
                try(
                    cast(cast(position_sec as varchar) as decimal(35, 20))
                    >= {{ threshold }}
                    * cast(cast(duration_sec as varchar) as decimal(35, 20))
                ),
                position_sec >= duration_sec * {{ threshold }}
            )
        else position_sec >= duration_sec * {{ threshold }}
    end
{%- endmacro %}
