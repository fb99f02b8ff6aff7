package io.theflash.spark

import java.util.OptionalLong

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.connector.read.{LocalScan, Statistics, SupportsReportStatistics}
import org.apache.spark.sql.types.StructType

/** A scan that comes to a few rows, which the driver has sooner than Spark has begun a task. They
  * are read when Spark makes its physical plan, once.
  *
  * @param most so many rows, or fewer
  */
private[spark] final class DriverScan(scan: TheFlashScan, most: Long, read: => Array[InternalRow])
    extends LocalScan
    with SupportsReportStatistics {
  private lazy val found = Errors.planning(read)

  override def readSchema(): StructType = scan.readSchema()

  override def description(): String = scan.description()

  override def rows(): Array[InternalRow] = found

  override def estimateStatistics(): Statistics = new Statistics {
    override def numRows(): OptionalLong = OptionalLong.of(most)
    override def sizeInBytes(): OptionalLong = OptionalLong.of(most * readSchema().defaultSize)
  }
}

private[spark] object DriverScan {

  /** A driver hands out no more rows than these. */
  val RowsMax = 1000

  /** Nor does it count more: what is visible of so many versions is known in no time only where
    * the store remembers it.
    */
  val VersionsMax: Long = 1L << 26
}
