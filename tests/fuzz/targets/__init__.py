"""Every parser of bytes from outside, with right inputs: captured ones where there are any."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.fuzz.run import Target
from tests.fuzz.targets import binlog, network, rows, schemas, stores, texts

_CHEAPEST_FIRST: Final[tuple[Callable[[Path], Target], ...]] = (
    network.write_response,
    network.etcd_answer,
    network.write_request,
    network.pulled_binlog,
    network.pull_request,
    rows.record_key,
    rows.mvcc_key,
    stores.interval_setting,
    binlog.file_position,
    texts.jsonl,
    binlog.pending_transaction,
    binlog.binlog_frames,
    binlog.binlog_message,
    stores.scope_record,
    stores.progress_record,
    network.pump_position,
    stores.manifest_head,
    stores.schema_span,
    network.pump_status,
    stores.identity_record,
    network.pd_answer,
    stores.latch_row,
    stores.region_record,
    texts.options,
    texts.command_line,
    rows.sort_key,
    binlog.ledger_record,
    texts.text_form,
    schemas.status_answer,
    stores.file_record,
    binlog.pairing,
    stores.schema_event,
    texts.json_text,
    stores.command_row,
    texts.expression,
    rows.stored_row,
    rows.checksummed_row,
    texts.origin_default,
    texts.json_value,
    rows.stored_row_of_every_type,
    rows.common_handle,
    binlog.prewrite_value,
    schemas.table_info,
    texts.evaluated_expression,
    schemas.meta_keys,
    rows.inserted_row,
    rows.inserted_row_of_clustered_table,
    schemas.base_index,
    binlog.gzipped_binlog,
    texts.conversion,
    schemas.base_rows,
    texts.partition_bounds,
    stores.data_file,
    schemas.schema_file,
    binlog.binlog_folder,
    stores.writer_lock_text,
    rows.deleted_row,
    rows.stored_row_v1,
    rows.updated_row,
    stores.database_file,
    stores.data_file_pages,
    stores.small_files,
    binlog.spool_file,
)
TARGETS: Final[Mapping[str, Callable[[Path], Target]]] = {
    factory.__name__: factory for factory in _CHEAPEST_FIRST
}
"""By name, and each made when its turn comes, with a folder of its own."""
