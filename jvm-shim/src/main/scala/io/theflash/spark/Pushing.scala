package io.theflash.spark
private[spark] final class PushingScanBuilder(settings: Settings, reading: Reading, columns: Seq[TableColumn]) extends TheFlashScanBuilder(settings, reading, columns)
private[spark] final class AggregatesReader(partition: SplitPartition, schema: org.apache.spark.sql.types.StructType, groups: Int) extends RowsReader(partition, schema) { override def toString = groups.toString }
