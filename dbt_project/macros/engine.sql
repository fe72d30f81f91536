{#- What differs between SQL engines, in one place; the models are plain SQL. -#}

{#- The fields of a JSON object as a struct: DuckDB here; `from_json` on Spark. -#}
{% macro json_struct(column, fields) %}
    {%- set members = [] -%}
    {%- for name, type in fields.items() -%}
        {%- do members.append('"' ~ name ~ '":"' ~ type ~ '"') -%}
    {%- endfor -%}
    json_transform({{ column }}, '{{ "{" ~ members | join(",") ~ "}" }}')
{%- endmacro %}

{#- Values that are compared one after the other, and read by name. The least or greatest
    of them is a single aggregate: a fifth of what `min_by` costs with such an order. -#}
{% macro struct(fields) -%}
    {%- set members = [] -%}
    {%- for name, value in fields.items() -%}
        {%- do members.append(name ~ ' := ' ~ value) -%}
    {%- endfor -%}
    struct_pack({{ members | join(', ') }})
{%- endmacro %}

{#- A moment: event time, ties by event id. -#}
{% macro moment(occurred_at, event_id) -%}
    {{ struct({'occurred_at': occurred_at, 'event_id': event_id}) }}
{%- endmacro %}

{#- A sorted array without NULLs. -#}
{% macro sorted_array(values) -%}
    list_sort(list_filter([{{ values | join(', ') }}], lambda x: x is not null))
{%- endmacro %}

{#- All members of a group's arrays, each once, sorted. -#}
{% macro union_of_arrays(column) -%}
    list_sort(list_distinct(flatten(list({{ column }}))))
{%- endmacro %}

{#- Empty, or Unicode white space only: what the contracts call blank in an id. -#}
{% macro is_blank(column) -%}
    regexp_full_match({{ column }}, '[\s\x0b\x1c-\x1f\x{85}\p{Z}]*')
{%- endmacro %}

{#- Floor as a 32-bit integer. Positions and scores have no upper bound: what does not
    fit stays at the largest integer, or one absurd event would stop a projection. -#}
{% macro whole(column) -%}
    cast(
        case when {{ column }} >= 2147483647 then 2147483647 else floor({{ column }}) end
        as integer
    )
{%- endmacro %}

{#- The whole numbers from `first` to `last`, both included, each a row. -#}
{% macro each_number(first, last) -%}
    unnest(range({{ first }}, {{ last }} + 1))
{%- endmacro %}

{#- An aggregate: a group's values that are not NULL as an array, in any order. -#}
{% macro array_of(value) -%}
    list({{ value }}) filter (where {{ value }} is not null)
{%- endmacro %}

{#- How often each value is in an array: structs of both, in the order of the values. -#}
{% macro counts_of_members(column, value, count) -%}
    list_transform(
        map_entries(list_aggregate({{ column }}, 'histogram')),
        lambda each: {{ struct({
            value: 'each.key',
            count: 'cast(each.value as integer)',
        }) }}
    )
{%- endmacro %}

{#- The members of an array, each a row. -#}
{% macro each_member(column) -%}
    unnest({{ column }})
{%- endmacro %}

{#- The values of a group as an array, in order. A struct is ordered by its fields. -#}
{% macro array_in_order(value) -%}
    list({{ value }} order by {{ value }})
{%- endmacro %}

{#- How many members of an array, each called `each`, satisfy the condition. -#}
{% macro count_members(column, condition) -%}
    len(list_filter({{ column }}, lambda each: {{ condition }}))
{%- endmacro %}

{#- The moment so many whole days earlier. -#}
{% macro days_before(moment, days) -%}
    {{ moment }} - to_days(cast({{ days }} as integer))
{%- endmacro %}

{#- A quantile of a group, interpolated between the two values beside it. -#}
{% macro quantile(column, share) -%}
    quantile_cont({{ column }}, {{ share }})
{%- endmacro %}

{#- The 128-bit key that an event is found by: `event_key` of raw.lms_event, where it is
`md5_number(event_id)::uuid`. Older clients, who read the views, cannot cast a number so:
it is the bytes of the MD5 from the last to the first. `array_to_string` names its list
twice, for which DuckDB would make the list of an id that is a UUID, too: 12 times as
slow. -#}
{% macro event_key(event_id) -%}
    coalesce(
        try_cast({{ event_id }} as uuid),
        cast(list_aggregate(
            list_reverse(regexp_extract_all(md5({{ event_id }}), '..')),
            'string_agg', ''
        ) as uuid)
    )
{%- endmacro %}

{#- One field of each member of an array of structs. -#}
{% macro field_of_members(column, field) -%}
    list_transform({{ column }}, lambda each: each['{{ field }}'])
{%- endmacro %}

{#- The digits that a JSON text has for a number of one of these names; the double that was
    read from it tells it from others. NULL where a decimal does not hold them: 9 digits
    before the point and 27 after it. -#}
{% macro number_in_json(text, names, number) -%}
    try_cast(
        list_filter(
            regexp_extract_all(
                {{ text }},
                '"(?:{{ names | join("|") }})"\s*:\s*(-?[0-9]{1,9}(?:[.][0-9]{1,27})?)[,}\s]',
                1
            ),
            lambda sent: try_cast(sent as double) = {{ number }}
        )[1] as decimal(36, 27)
    )
{%- endmacro %}

{#- As dbt-duckdb has it, for a path with an apostrophe too. -#}
{% macro duckdb__load_csv_rows(model, agate_table) %}
    {%- set path = adapter.get_seed_file_path(model) | replace("'", "''") -%}
    {%- set sql = 'copy ' ~ this ~ " from '" ~ path ~ "' (format csv, header true)" -%}
    {%- do adapter.add_query(sql, abridge_sql_log=True) -%}
    {{ return(sql) }}
{% endmacro %}
