package preflight

import "strings"

// What the program's statements name in pg_catalog and everybody may use by default:
// relations, and functions that tell of the server or change it. A test compares the
// lists with the statements.
var (
	CatalogRelations = strings.Fields(`
	pg_am pg_attribute pg_auth_members pg_cast pg_class pg_constraint pg_database pg_db_role_setting
	pg_default_acl pg_depend pg_event_trigger pg_extension pg_foreign_data_wrapper pg_foreign_server
	pg_index pg_inherits pg_language pg_locks pg_namespace pg_opclass pg_operator pg_policy
	pg_prepared_xacts pg_proc pg_publication pg_publication_rel pg_range pg_replication_slots pg_rewrite
	pg_roles pg_sequence pg_settings pg_shdepend pg_stat_activity pg_stat_progress_copy
	pg_stat_progress_create_index pg_stat_replication pg_stat_subscription pg_stat_subscription_stats
	pg_stat_user_tables pg_statistic_ext pg_stats pg_subscription pg_subscription_rel pg_tablespace
	pg_trigger pg_type`)
	CatalogFunctions = strings.Fields(`
	pg_advisory_lock_shared pg_advisory_unlock pg_advisory_unlock_shared pg_backend_pid
	pg_create_logical_replication_slot pg_current_wal_insert_lsn pg_current_wal_lsn
	pg_drop_replication_slot pg_encoding_to_char pg_get_constraintdef pg_get_indexdef pg_get_userbyid
	pg_has_role pg_identify_object pg_is_in_recovery pg_logical_slot_peek_binary_changes
	pg_relation_filenode pg_relation_size pg_sequence_last_value pg_table_size pg_terminate_backend
	pg_try_advisory_lock pg_wal_lsn_diff`)
)
