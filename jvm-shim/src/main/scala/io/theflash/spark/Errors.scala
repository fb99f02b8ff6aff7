package io.theflash.spark

import com.fasterxml.jackson.databind.JsonNode
import org.apache.spark.sql.AnalysisException

/** An error of TheFlash: `kind` is a class of pyspark_theflash.errors, `text` its message.
  * Spark serializes the exception of a failed task and shows the message.
  */
class TheFlashException(
    val kind: String,
    val text: String,
    val retryable: Boolean,
    cause: Throwable = null
) extends RuntimeException(s"$kind: $text", cause)

/** An error before the start of a query, of a class that Spark and PySpark support. */
final class TheFlashAnalysisException(cause: TheFlashException)
    extends AnalysisException(
      cause.getMessage,
      None,
      None,
      Some(cause),
      None,
      Map.empty,
      Array.empty
    )

/** Errors detected in the JVM, with the texts of pyspark_theflash.errors. */
private[spark] object Errors {
  val LeaseExpired = "LeaseExpiredError"
  val TableNotFound = "TableNotFoundError"
  val Unavailable = "ServiceUnavailableError"
  val Unsupported = "UnsupportedError"

  def option(key: String, reason: String): TheFlashException =
    new TheFlashException("OptionError", s"option '$key': $reason", retryable = false)

  def unavailable(address: String, reason: String, cause: Throwable = null): TheFlashException =
    new TheFlashException(Unavailable, s"$address is not available: $reason", true, cause)

  def cut(address: String, reason: String, cause: Throwable = null): TheFlashException =
    new TheFlashException("StreamCutError", s"$address is not available: $reason", true, cause)

  def protocol(address: String, reason: String, cause: Throwable = null): TheFlashException =
    new TheFlashException("ProtocolError", s"$address: $reason", false, cause)

  def authentication(address: String, reason: String, cause: Throwable = null): TheFlashException =
    new TheFlashException(
      "AuthenticationError",
      s"$address does not let us in: $reason",
      false,
      cause
    )

  def deadline(method: String, timeoutMs: Long): TheFlashException =
    new TheFlashException(
      "DeadlineExceededError",
      s"$method was not done within $timeoutMs ms",
      true
    )

  def corruption(what: String, reason: String): TheFlashException =
    new TheFlashException("CorruptionError", s"$what: $reason at byte 0", retryable = false)

  def leaseExpired(latchId: String, snapshotTs: String): TheFlashException =
    new TheFlashException(
      LeaseExpired,
      s"read latch $latchId on snapshot $snapshotTs has expired",
      retryable = true
    )

  def writing(): TheFlashException =
    new TheFlashException(
      Unsupported,
      "theflash, a replica that follows TiDB: writing with Spark is not supported",
      retryable = false
    )

  /** Converts an Error message of the API. */
  def decoded(encoded: JsonNode): TheFlashException =
    new TheFlashException(
      encoded.path("name").asText("InternalError").take(80),
      encoded.path("text").asText("").take(2000),
      encoded.path("retryable").asBoolean(false)
    )

  /** Evaluates `body`; converts its errors to analysis errors. */
  def planning[T](body: => T): T =
    try body
    catch {
      case error: TheFlashException => throw new TheFlashAnalysisException(error)
    }
}
