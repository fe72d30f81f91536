PRAGMA defer_foreign_keys=TRUE;
CREATE TABLE lms_course (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL
);
INSERT INTO "lms_course" VALUES('maths','A course');
CREATE TABLE lms_class (
    id TEXT PRIMARY KEY,
    course_id TEXT NOT NULL REFERENCES lms_course(id),
    name TEXT NOT NULL,
    sys_order_index INTEGER DEFAULT 0,
    media_json TEXT,
    node_kind TEXT NOT NULL DEFAULT 'LESSON' CHECK (node_kind IN ('SECTION', 'LESSON')),
    parent_class_id TEXT
);
INSERT INTO "lms_class" VALUES('maths-1','maths','Part one',1,'[]','SECTION',NULL);
INSERT INTO "lms_class" VALUES('algebra','maths','Algebra',2,'[{"type": "VIDEO"}, {"type": "QUIZ", "tally_form_id": "w4dJb2"}]','LESSON','maths-1');
INSERT INTO "lms_class" VALUES('sets','maths','Sets',3,'[{"type": "VIDEO"}, {"type": "QUIZ", "tally_form_id": "mK9pQz", "pass_threshold": 60}]','LESSON','maths-1');
CREATE TABLE lms_event (
    id TEXT PRIMARY KEY,
    type TEXT NOT NULL,            -- VIDEO_PING, QUIZ_SUBMIT; and more
    user_id TEXT NOT NULL,
    course_id TEXT,
    class_id TEXT,
    occurred_at TEXT NOT NULL,
    payload_json TEXT NOT NULL,
    context_json TEXT,
    created_at TEXT DEFAULT (datetime('now'))
);
INSERT INTO "lms_event" VALUES('evt_1','VIDEO_PLAY','ada','maths','algebra','2026-03-10T10:00:10.000Z','{"position_sec": 0}',NULL,'2026-03-10 10:00:10');
INSERT INTO "lms_event" VALUES('evt_2','VIDEO_PING','ada','maths','algebra','2026-03-10T10:00:20.000Z','{"position_sec": 120, "duration_sec": 600}',NULL,'2026-03-10 10:00:20');
INSERT INTO "lms_event" VALUES('evt_3','VIDEO_PING','ada','maths','algebra','2026-03-10T10:00:30.000Z','{"position_sec": 590, "duration_sec": 600}',NULL,'2026-03-10 10:00:30');
INSERT INTO "lms_event" VALUES('evt_4','QUIZ_SUBMIT','ada','maths','algebra','2026-03-10T10:00:40.000Z','{"quiz_id": "form-1", "score": 9, "max_score": 10, "percentage": 90, "passed": true}',NULL,'2026-03-10 10:00:40');
INSERT INTO "lms_event" VALUES('evt_5','VIDEO_PING','babbage','maths','algebra','2026-03-10T10:00:50.000Z','{"position_sec": 595, "duration_sec": 600}',NULL,'2026-03-10 10:00:50');
INSERT INTO "lms_event" VALUES('evt_6','QUIZ_SUBMIT','babbage','maths','algebra','2026-03-10T10:01:00.000Z','{"quiz_id": "form-1", "score": 9, "max_score": 10, "percentage": 90, "passed": true}',NULL,'2026-03-10 10:01:00');
INSERT INTO "lms_event" VALUES('evt_7','QUIZ_SUBMIT','babbage','maths','algebra','2026-03-10T10:01:10.000Z','{"quiz_id": "form-1", "score": 5, "max_score": 10, "percentage": 50, "passed": false}',NULL,'2026-03-10 10:01:10');
INSERT INTO "lms_event" VALUES('evt_8','VIDEO_PING','hopper','maths','sets','2026-03-10T10:01:20.000Z','{"position_sec": 580, "duration_sec": 600}',NULL,'2026-03-10 10:01:20');
INSERT INTO "lms_event" VALUES('evt_9','QUIZ_SUBMIT','hopper','maths','sets','2026-03-10T10:01:30.000Z','{"quiz_id": "form-1", "score": 7, "max_score": 10, "percentage": 70, "passed": true}',NULL,'2026-03-10 10:01:30');
INSERT INTO "lms_event" VALUES('evt_10','VIDEO_PING','turing','maths','sets','2026-03-10T10:01:40.000Z','{"position_sec": 300, "duration_sec": 600}',NULL,'2026-03-10 10:01:40');
INSERT INTO "lms_event" VALUES('evt_11','VIDEO_PING','turing','maths','algebra','2026-03-10T10:06:50.000Z','{"position_sec": "ten", "duration_sec": 600}',NULL,'2026-03-10 10:06:50');
CREATE TABLE v_user_progress (
    user_id TEXT NOT NULL,
    class_id TEXT NOT NULL,
    course_id TEXT NOT NULL,
    video_max_position_sec INTEGER DEFAULT 0,
    video_duration_sec INTEGER DEFAULT 0,
    video_completed INTEGER DEFAULT 0,
    quiz_passed INTEGER DEFAULT 0,
    quiz_score INTEGER DEFAULT 0,
    quiz_max_score INTEGER DEFAULT 0,
    updated_at TEXT DEFAULT (datetime('now')),
    PRIMARY KEY (user_id, class_id)
);
INSERT INTO "v_user_progress" VALUES('ada','algebra','maths',590,600,1,1,9,10,'2026-03-10T10:00:40.000Z');
INSERT INTO "v_user_progress" VALUES('babbage','algebra','maths',0,600,0,0,5,10,'2026-03-10T10:01:10.000Z');
INSERT INTO "v_user_progress" VALUES('hopper','sets','maths',580,600,1,0,7,10,'2026-03-10T10:01:30.000Z');
INSERT INTO "v_user_progress" VALUES('turing','sets','maths',600,600,1,0,0,0,'2026-03-10T10:06:40.000Z');
CREATE INDEX idx_lms_event_user ON lms_event(user_id, class_id, type);