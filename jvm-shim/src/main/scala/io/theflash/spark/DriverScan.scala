package io.theflash.spark

import java.util.OptionalLong

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.connector.read.{LocalScan, Statistics, SupportsReportStatistics}
import org.apache.spark.sql.types.StructType

/** A scan with few rows, which the driver reads in less time than Spark needs to start a task. They
  * are read once, when Spark creates its physical plan.
  *
  * @param most upper bound of the number of rows
  */
private[spark] final class DriverScan(scan: TheFlashScan, most: Long, read: => Array[InternalRow])
    extends LocalScan
    with SupportsReportStatistics {
  private lazy val result = Errors.planning(read)

  override def readSchema(): StructType = scan.readSchema()

  override def description(): String = scan.description()

  override def rows(): Array[InternalRow] = result

  override def estimateStatistics(): Statistics = new Statistics {
    override def numRows(): OptionalLong = OptionalLong.of(most)
    override def sizeInBytes(): OptionalLong = OptionalLong.of(most * readSchema().defaultSize)
  }
}

private[spark] object DriverScan {

  /** Largest number of rows that the driver reads. */
  val RowsMax = 1000

  /** Largest number of versions that the driver counts; counting more is fast only if the store has
    * their visibility cached.
    */
  val VersionsMax: Long = 1L << 26
}
