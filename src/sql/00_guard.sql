-- Everything below is created with plain CREATE: an object that already stands in the way makes the installation
-- fail instead of being adopted.

COMMENT ON SCHEMA jobqueue IS 'jobqueue: a job queue inside PostgreSQL';
REVOKE ALL ON SCHEMA jobqueue FROM PUBLIC;
