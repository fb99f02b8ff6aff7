package io.theflash.spark

import java.nio.charset.StandardCharsets.{US_ASCII, UTF_8}
import java.nio.file.{Files, Path, Paths}
import java.security.MessageDigest

import scala.jdk.CollectionConverters._
import scala.util.Try

import javax.crypto.Mac
import javax.crypto.spec.SecretKeySpec

/** Location of a store, with credentials. It is sent to executors and never printed. */
private[spark] sealed trait Place extends Serializable

/** A folder of this machine, read through its engine process. `idle`: see [[Engine]]. */
private[spark] final case class Folder(path: String, python: String, idle: Option[String])
    extends Place

/** `unix:PATH` or `HOST:PORT`. */
private[spark] final case class Server(
    address: String,
    token: Option[Token],
    tls: Option[TlsMaterial]
) extends Place

/** A token. Only a proof of it is sent; it is never printed. */
private[spark] final case class Token(value: String) {

  /** Proof of possession of the token for one nonce: see protos/theflash/v1/theflash.proto. */
  def proof(nonce: Array[Byte]): Array[Byte] = {
    val key = sha256(value.getBytes(US_ASCII))
    val mac = Mac.getInstance("HmacSHA256")
    mac.init(new SecretKeySpec(sha256(key), "HmacSHA256"))
    mac.update("theflash v1".getBytes(US_ASCII))
    key.zip(mac.doFinal(nonce)).map { case (a, b) => (a ^ b).toByte }
  }

  override def toString: String = "Token(...)"

  private def sha256(data: Array[Byte]) = MessageDigest.getInstance("SHA-256").digest(data)
}

/** Certificates and key as the content of PEM files, which executors do not have. */
private[spark] final case class TlsMaterial(ca: String, cert: Option[String], key: Option[String]) {
  override def toString: String = "TlsMaterial(...)"
}

private[spark] object Place {
  private val Scheme = "theflash://"
  private val Unix = "unix:"
  private val TokenChars = 16

  /** The place that the options of a read name.
    *
    * The engine process or server validates the remaining options, with the same error messages.
    */
  def of(options: Map[String, String], python: => String, idle: => Option[String]): Place = {
    val store = options.getOrElse(
      "store",
      throw Errors.option("store", "is missing; it names the store's folder")
    )
    if (store.startsWith(Scheme) || store.startsWith(Unix)) {
      Server(store.stripPrefix(Scheme), token(options), tls(options))
    } else {
      Secrets.find(options.contains).foreach { name =>
        throw Errors.option(name, "is for servers, and the store is a folder")
      }
      if (store.isEmpty || store.contains("://"))
        throw Errors.option("store", s"'$store' is not a folder of this machine")
      Folder(Paths.get(store.stripPrefix("file:")).toAbsolutePath.toString, python, idle)
    }
  }

  /** Options that are not sent to the store. */
  val Secrets: Seq[String] = Seq("token", "token_file", "tls_ca", "tls_cert", "tls_key")

  private def token(options: Map[String, String]): Option[Token] = {
    if (options.contains("token") && options.contains("token_file"))
      throw Errors.option("token_file", "cannot be given together with token")
    val said = options
      .get("token")
      .orElse(options.get("token_file").map(file => readPrivate("token_file", Paths.get(file))))
      .map(_.linesIterator.nextOption().getOrElse("").trim)
    said.foreach { text =>
      if (text.length < TokenChars || !text.forall(c => c > ' ' && c < 127 && c != '#'))
        throw Errors.option(
          "token",
          s"is not of $TokenChars or more printable ASCII characters"
        )
    }
    said.map(Token)
  }

  private def tls(options: Map[String, String]): Option[TlsMaterial] = {
    def content(name: String) = options.get(name).map(file => read(name, Paths.get(file)))
    val (ca, cert, key) = (content("tls_ca"), content("tls_cert"), content("tls_key"))
    if (cert.isDefined != key.isDefined)
      throw Errors.option("tls", "a certificate and its key are given together")
    if (ca.isEmpty && cert.isDefined) throw Errors.option("tls_ca", "is missing; tls_cert needs it")
    ca.map(TlsMaterial(_, cert, key))
  }

  /** Reads a file that belongs to this user or root, and that no other user can use. */
  private def readPrivate(name: String, file: Path): String = {
    def uid(path: Path) = Try(Files.getAttribute(path, "unix:uid")).toOption
    val own = uid(Paths.get("/proc/self")) ++ Some(0)
    if (uid(file).exists(owner => own.size == 2 && !own.exists(_ == owner)))
      throw Errors.option(name, s"$file belongs to another user")
    val modes = Try(Files.getPosixFilePermissions(file)).toOption
    if (modes.exists(_.asScala.exists(mode => !mode.name.startsWith("OWNER_"))))
      throw Errors.option(name, s"$file can be read by other users: chmod 600 it")
    read(name, file)
  }

  private def read(name: String, file: Path): String =
    try new String(Files.readAllBytes(file), UTF_8)
    catch { case _: java.io.IOException => throw Errors.option(name, s"cannot read $file") }
}
