{#- Generated from ingest/contracts by `warehouse contracts --write`. -#}
{% macro event_contracts() %}
    {% do return({
        'QUIZ_SUBMIT': {
            'fields': {
                'quiz_id': 'varchar',
                'score': 'double',
                'max_score': 'double',
                'passed': 'boolean',
            },
            'columns': {
                'quiz_id': {1: 'quiz_id'},
                'score': {1: 'score'},
                'max_score': {1: 'max_score'},
                'passed': {1: 'passed'},
            },
        },
        'VIDEO_PING': {
            'fields': {
                'video_id': 'varchar',
                'position': 'double',
                'duration': 'double',
                'position_sec': 'double',
                'duration_sec': 'double',
                'playback_rate': 'double',
                'session_id': 'varchar',
            },
            'columns': {
                'video_id': {1: 'video_id', 2: 'video_id'},
                'position_sec': {1: 'position', 2: 'position_sec'},
                'duration_sec': {1: 'duration', 2: 'duration_sec'},
                'playback_rate': {2: 'playback_rate'},
                'session_id': {2: 'session_id'},
            },
        },
    }) %}
{% endmacro %}
